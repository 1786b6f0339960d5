"""The one seam to the event log: real Kafka (`kafka`) and its in-process twin (`memory`) behind `base`."""
