"""What several tests share: small data and runs, real disks and processes, and the programs that these run."""
