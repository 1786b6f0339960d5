"""Quality measured while serving: published lists, judged by the next click."""
