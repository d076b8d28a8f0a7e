#!/bin/sh
# Gets the pages of three documentation sites for the measurement, into the folder that is given:
#   sh bench/ask/get-sites.sh dist/ask-sites
# Needs git, and Debian's apt-get and dpkg for the SQLite documentation.
set -e
mkdir -p "$1"
cd "$1"

# $1: folder, $2: repository, $3: commit
get() {
  git init -q "$1"
  git -C "$1" fetch -q --depth 1 "$2" "$3"
  git -C "$1" checkout -q FETCH_HEAD
}

# A budgeting app for everybody: 104 pages of Markdown (MIT).
get actual https://github.com/actualbudget/docs 8ad6e1440cb9ff78926f708cdd14d17a62a13792
# A web framework: 112 pages of Markdown (MIT).
get hono https://github.com/honojs/website 3048a3680d48fbc7dfd7cd1dd312f409036d4518
# A database: 203 pages of HTML (public domain), Debian bookworm's package.
apt-get download sqlite3-doc=3.40.1-2+deb12u2
dpkg -x sqlite3-doc_*.deb sqlite3-doc
mv sqlite3-doc/usr/share/doc/sqlite3 sqlite
