package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
)

var davUses = []toolUse{
	{
		name: "rclone moveto", line: `rclone moveto --webdav-url $TILL --webdav-bearer-token $KEY :webdav:a.txt :webdav:b.txt`, needs: []string{"rclone"}, long: true,
		activations: 5, dead: "has used all 5 activations", setup: serveDAV,
	},
	{
		name: "rclone copyto", line: `rclone copyto --webdav-url $TILL --webdav-bearer-token $KEY :webdav:a.txt b.txt && cat b.txt`, needs: []string{"rclone"}, long: true,
		activations: 3, says: "what is in the file", dead: "has used all 3 activations", setup: serveDAV,
	},
}

// serveDAV has rclone's own WebDAV server, with a file.
func serveDAV(st *stage) {
	root, address := st.TempDir(), freePort(st.T)
	if err := os.WriteFile(filepath.Join(root, "a.txt"), []byte("what is in the file\n"), 0o600); err != nil {
		st.Fatal(err)
	}
	st.env = append(st.env, "RCLONE_CONFIG=/dev/null")
	cmd := exec.CommandContext(st.Context(), "rclone", "serve", "webdav", root, "--addr", address)
	cmd.Env = append(os.Environ(), st.env...)
	st.upstream.serve(process(st.T, address, cmd))
}
