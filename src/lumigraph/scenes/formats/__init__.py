"""One reader per dataset format: `read(folder, ...) -> Scene`."""
