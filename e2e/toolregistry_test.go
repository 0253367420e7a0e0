package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os/exec"
)

var registryUses = []toolUse{
	{
		name: "skopeo push", line: `skopeo --insecure-policy copy --dest-creds x:$KEY oci:image docker://$HOST/a/b:1`, needs: []string{"skopeo", "docker-registry"}, long: true, secure: true,
		activations: 9, says: "Writing manifest", dead: "402 (Payment Required)", setup: serveRegistry,
	},
	{
		name: "skopeo pull", line: `skopeo --insecure-policy copy --src-creds x:$KEY docker://$HOST/a/b:0 oci:pulled`, needs: []string{"skopeo", "docker-registry"}, long: true, secure: true,
		activations: 3, says: "Writing manifest", dead: "StatusCode: 402", setup: serveRegistry,
	},
	{
		name: "skopeo list-tags", line: `skopeo list-tags --creds x:$KEY docker://$HOST/a/b`, needs: []string{"skopeo", "docker-registry"}, long: true, secure: true,
		activations: 1, says: `"0"`, dead: "402 (Payment Required)", setup: serveRegistry,
	},
}

// serveRegistry has Docker's registry, with an image; the program has another.
func serveRegistry(st *stage) {
	address := freePort(st.T)
	st.write("registry.yml", fmt.Appendf(nil, `version: 0.1
http: {addr: %q, secret: x}
storage: {filesystem: {rootdirectory: %q}}
`, address, st.TempDir()))
	st.upstream.serve(process(st.T, address, exec.CommandContext(st.Context(), "docker-registry", "serve", st.prepared()+"/registry.yml")))
	st.image("prepared")
	st.prepare(`skopeo --insecure-policy copy --dest-tls-verify=false --dest-creds x:$KEY oci:image docker://$HOST/a/b:0 && rm -r image`)
	st.image("pushed")
}

// image writes an image of one layer, in the layout of
// https://github.com/opencontainers/image-spec/blob/v1.0.2/image-layout.md.
func (st *stage) image(content string) {
	st.Helper()
	blob := func(kind string, b []byte) object {
		digest := fmt.Sprintf("%x", sha256.Sum256(b))
		st.write("image/blobs/sha256/"+digest, b)
		return object{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(b)}
	}
	encode := func(v object) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			st.Fatal(err)
		}
		return b
	}
	layer := blob("layer.v1.tar", []byte(content))
	config := blob("config.v1+json", encode(object{"architecture": "amd64", "os": "linux",
		"rootfs": object{"type": "layers", "diff_ids": []any{layer["digest"]}}}))
	manifest := blob("manifest.v1+json", encode(object{"schemaVersion": 2, "config": config, "layers": []any{layer}}))
	st.write("image/oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	st.write("image/index.json", encode(object{"schemaVersion": 2, "manifests": []any{manifest}}))
}
