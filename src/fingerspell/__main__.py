"""``python -m fingerspell``, as ``torchrun -m fingerspell`` starts it."""

from fingerspell.cli import main

if __name__ == "__main__":
    main()
