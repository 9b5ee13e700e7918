An invoice that was none. The real one of the exercise does nothing either.
