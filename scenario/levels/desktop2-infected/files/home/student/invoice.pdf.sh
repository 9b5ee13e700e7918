Copied here from desktop1.
