"""What everything stands on: types, data sets, artefacts, metrics, measurements. No torch here."""
