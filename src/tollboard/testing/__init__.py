"""What Tollboard ships for testing: contract suites, fakes and recorders."""
