"""Does the service stay as fast as its data grows? `python -m bench.growth`"""
