"""The demo: `prefixtune demo` trains an APT prefix on an encoder and two prefixes on a small decoder, offline."""

from __future__ import annotations

