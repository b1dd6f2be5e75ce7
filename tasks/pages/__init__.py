"""What pages and tables for people are made of."""
