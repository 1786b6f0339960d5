"""Jobs from recorded clicks to a release."""
