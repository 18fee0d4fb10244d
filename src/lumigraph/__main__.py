"""`python -m lumigraph` is `lumigraph`."""

from lumigraph.cli.main import run

if __name__ == "__main__":
    run()
