"""Programs that put events on topics: replay of recorded clicks, simulated shoppers, the demo."""
