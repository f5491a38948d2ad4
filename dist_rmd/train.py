"""python -m dist_rmd.train CONFIG.yaml [key=value ...]: the command.  In Python, `dist_rmd.train` is a function."""

from dist_rmd.distributed import launcher  # noqa: F401  # first: it notes the launcher, and torch's import takes seconds

if __name__ == "__main__":
    from dist_rmd.pipeline.command import command

    command()
else:  # a module of this name would take the function's place
    raise ImportError("dist_rmd.train is a function: from dist_rmd import train")
