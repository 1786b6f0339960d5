"""One member of the consumer group: the loop, the micro-batch, and its HTTP probes."""
