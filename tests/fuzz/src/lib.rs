//! Fuzz targets for every parser of what comes from outside.
