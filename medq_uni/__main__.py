"""``python -m medq_uni`` is ``medq``."""

from medq_uni.cli.main import main

if __name__ == "__main__":
    main()
