"""Run folders and sweep folders: results, tables, the Optuna study, sweepers and launchers."""
