"""Metrics, scorers, few-shot sampling and the report. Systems are seen only as examples."""
