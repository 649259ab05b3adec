"""MonitoringService: who is up, what the numbers say, and which alerts they raise."""
