"""The numbers behind tables and reports: statistics, benefits of transfer, calibration, cost."""
