#!/bin/sh
# Renew the viewer behind /docs from the npm package swagger-ui-dist: scripts/vendor_docs_viewer.sh
#
# What is pinned here is what is fetched: the package is checked against its SHA-512 before it is opened. Needs npm.
set -eu

version=5.35.0
sha512=534eaba4cb56f55dd73c638179a993512af4674f63317e0826e00da44fc465b021c341bc0a0c2bcd4e18997927fe1d3008336c5dd19aad334d1c2dec53cc9551

folder=$(dirname "$0")/../lumen_api/docs_viewer/swagger-ui
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm pack "swagger-ui-dist@$version" --silent --pack-destination "$work" > /dev/null
echo "$sha512  $work/swagger-ui-dist-$version.tgz" | sha512sum --check --quiet
tar -xzf "$work/swagger-ui-dist-$version.tgz" -C "$work"

rm -rf "$folder"
mkdir "$folder"
for name in swagger-ui-bundle.js swagger-ui-bundle.js.LICENSE.txt swagger-ui.css LICENSE NOTICE; do
    install -m 644 "$work/package/$name" "$folder/$name"
done
echo "swagger-ui-dist $version" > "$folder/VERSION"
