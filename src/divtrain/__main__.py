"""`python -m divtrain` is the `divtrain` command."""

from divtrain.cli import main

raise SystemExit(main())
