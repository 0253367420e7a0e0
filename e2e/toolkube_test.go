package e2e

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
)

var kubeUses = []toolUse{
	{
		name: "kubectl get", line: `kubectl --server $TILL --token $KEY get pods`, needs: []string{"kubectl"}, long: true, secure: true,
		activations: 4, says: "web-0", dead: "the server responded with the status code 402", setup: serveKube,
	},
	{
		name: "kubectl logs", line: `kubectl --server $TILL --token $KEY logs web-0`, needs: []string{"kubectl"}, long: true, secure: true,
		activations: 5, says: "a line of web-0", dead: "the server responded with the status code 402", setup: serveKube,
	},
}

// serveKube answers as the API server of Kubernetes does to what asks for no newer
// form: https://kubernetes.io/docs/reference/using-api/api-concepts/
func serveKube(st *stage) {
	version, err := exec.CommandContext(st.Context(), "kubectl", "version", "--client").Output()
	if err != nil {
		st.Fatal(err)
	}
	if strings.Contains(string(version), "-dispatcher") {
		st.besides = 1 // Google's kubectl asks for the server's version first
	}
	pod := object{
		"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "web-0", "namespace": "default"},
		"spec": object{"containers": []any{object{"name": "web"}}}, "status": object{"phase": "Running"},
	}
	answers := map[string]object{
		"/api":  {"kind": "APIVersions", "versions": []string{"v1"}},
		"/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []any{}},
		"/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []any{
			object{"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": []string{"get", "list"}, "shortNames": []string{"po"}},
		}},
		"/api/v1/namespaces/default/pods":       {"kind": "PodList", "apiVersion": "v1", "metadata": object{}, "items": []any{pod}},
		"/api/v1/namespaces/default/pods/web-0": pod,
	}
	st.upstream.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/namespaces/default/pods/web-0/log" {
			if _, err := w.Write([]byte("a line of web-0\n")); err != nil {
				st.Log(err)
			}
			return
		}
		answer, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			st.Log(err)
		}
	}))
}
