"""Everything MLflow: the store, runs and their spool, reading runs back, the model registry.

mlflow takes about two seconds to import, so commands import these modules only when they need them.
"""
