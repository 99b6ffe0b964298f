"""Train, test or sweep: `python run.py model=inception_v3 trainer.devices=2`. List all keys: `python run.py --cfg job`."""

from inception_zoo.app import main

if __name__ == "__main__":
    main()
