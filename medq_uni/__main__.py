"""``python -m medq_uni`` is ``medq``."""

from medq_uni.cli import main

if __name__ == "__main__":
    main()
