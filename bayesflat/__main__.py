"""``python -m bayesflat``."""

from bayesflat.cli import main

if __name__ == "__main__":
    main()
