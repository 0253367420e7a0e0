package till

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func TestWhatScriptsMayReadIsWhatBothSay(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 200 {
		many = append(many, "X-"+strconv.Itoa(i))
	}
	const list = "Access-Control-Expose-Headers"
	for name, test := range map[string]struct {
		own, upstream []string
		want          string
	}{
		"nothing of the upstream":          {[]string{exposedHeaders}, nil, exposedHeaders},
		"an origin that is not allowed":    {nil, []string{"X-A"}, ""},
		"names":                            {[]string{exposedHeaders}, []string{"Mcp-Session-Id, X-Total-Count"}, exposedHeaders + ", X-Total-Count"},
		"names that are known":             {[]string{exposedHeaders}, []string{"etag,TILL-KEY", " link "}, exposedHeaders},
		"several lines, and twice":         {[]string{exposedHeaders}, []string{"X-A,x-a", "", "X-B , X-A"}, exposedHeaders + ", X-A, X-B"},
		"all":                              {[]string{exposedHeaders}, []string{"*"}, exposedHeaders + ", *"},
		"what are no names":                {[]string{exposedHeaders}, []string{"X-A\r\nX-B: c", "X C", "(x)", `"y"`}, exposedHeaders},
		"more than a header should hold":   {[]string{exposedHeaders}, []string{strings.Repeat("x", 5000)}, exposedHeaders},
		"more names than a list should be": {[]string{exposedHeaders}, []string{strings.Join(many, ",")}, exposedHeaders + ", " + strings.Join(many[:maxExposed], ", ")},
	} {
		w := httptest.NewRecorder()
		if test.own != nil {
			w.Header()[list] = test.own
		}
		x := &exchange{client: w}
		x.exposeHeaders(http.Header{list: test.upstream})
		if got := strings.Join(w.Header()[list], " | "); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
