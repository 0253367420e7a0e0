package scope

import "testing"

var denied = MustPathRules("* /v1/batches", "* /v1/batches/*", "* /async", "* /async/*", "POST /v1/models/*:predict",
	"* /*/secret", "GET /", "* /v1/a*/x", "* /upload/*")

var probes = []string{
	"/", "/v1", "/v1/", "/v1/batches", "/v1/Batches/", "/V1/BATCHES/x/y", "/v1/batchesx", "/async", "/async/", "/async/x",
	"/ASYNC/x/y", "/asyncx", "/v1/models/m:predict", "/v1/models/m:PREDICT/", "/v1/models/m", "/any/secret", "/Any/Secret/",
	"/any/secret/x", "/v1/abc/x", "/v1/abc/y", "/upload", "/upload/", "/upload/x", "/v1/batcheſ", "/aſync/x", "/x/ſecret",
}

func TestADenyListAnswersAsItsRulesDo(t *testing.T) {
	t.Parallel()
	l := NewDenyList(denied)
	for _, path := range probes {
		for _, method := range []string{"GET", "POST", "post"} {
			want := denied.matchFold(method, path) || denied.matchFold(method, WithoutParameters(path))
			if got := l.Denies(method, path); got != want {
				t.Errorf("%s %s: %v, its rules say %v", method, path, got, want)
			}
		}
	}
	if (*DenyList)(nil).Denies("GET", "/") {
		t.Error("no list denies")
	}
}

func FuzzDenyList(f *testing.F) {
	for _, path := range probes {
		f.Add("GET", path)
	}
	l := NewDenyList(denied)
	f.Fuzz(func(t *testing.T, method, escaped string) {
		path, err := CleanPath(escaped)
		if err != nil {
			return
		}
		if got, want := l.Denies(method, path), denied.matchFold(method, path); got != want {
			t.Errorf("%s %q: %v, its rules say %v", method, path, got, want)
		}
	})
}
