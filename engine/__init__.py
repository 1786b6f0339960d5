"""The serving side: clicks in, fresh lists out.

File names follow the data path:

    messages -> window, window_store -> encoder -> index -> candidates -> ranking -> messages

`pipeline` is that path in one function, `worker` the loop around it, `eventlog` the seam to Kafka.
"""
