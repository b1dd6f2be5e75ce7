-- Run once, when PostgreSQL's volume is new. POSTGRES_DB has made `prefect`; MLflow gets a database of its own.
CREATE DATABASE mlflow;
