"""From candidates to lists: reranking, popularity, the lists and their messages."""
