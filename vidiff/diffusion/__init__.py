"""The theory: schedules, noising, predictions, clocks, guidance, likelihood. It knows no files and no networks."""
