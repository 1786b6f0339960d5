"""From polled records to clicks, by the field names of the settings; what is no click becomes a dead letter."""
