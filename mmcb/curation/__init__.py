"""What every made data set goes through: filters, its card, a gallery to review it by eye."""
