"""Where files lie and how they are reached: locations for GDAL, small files, leases, AWS credentials."""
