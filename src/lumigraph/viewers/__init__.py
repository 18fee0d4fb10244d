"""What people look at light fields with: the web player, and the server that shows it on this machine."""
