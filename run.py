"""Train, test or sweep: `python run.py model=inception_v3 trainer.devices=2`. List all keys: `python run.py --cfg job`."""

from inception_zoo.system.terminal import end_on_signals

if __name__ == "__main__":
    end_on_signals()  # before the imports of Hydra, which take a second
    from inception_zoo.app import main

    main()
