"""Newton's method over time: all steps of an elementwise nonlinear recurrence at once, by scans."""
