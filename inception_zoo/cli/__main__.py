"""`python -m inception_zoo.cli`: the `inception-zoo` command."""

from inception_zoo.cli.main import main

if __name__ == "__main__":
    main()
