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
		"nothing of the upstream":          {[]string{exposed}, nil, exposed},
		"an origin that is not allowed":    {nil, []string{"X-A"}, ""},
		"names":                            {[]string{exposed}, []string{"Mcp-Session-Id, X-Total-Count"}, exposed + ", X-Total-Count"},
		"names that are known":             {[]string{exposed}, []string{"etag,TILL-KEY", " link "}, exposed},
		"several lines, and twice":         {[]string{exposed}, []string{"X-A,x-a", "", "X-B , X-A"}, exposed + ", X-A, X-B"},
		"all":                              {[]string{exposed}, []string{"*"}, exposed + ", *"},
		"what are no names":                {[]string{exposed}, []string{"X-A\r\nX-B: c", "X C", "(x)", `"y"`}, exposed},
		"more than a header should hold":   {[]string{exposed}, []string{strings.Repeat("x", 5000)}, exposed},
		"more names than a list should be": {[]string{exposed}, []string{strings.Join(many, ",")}, exposed + ", " + strings.Join(many[:maxExposed], ", ")},
	} {
		w := httptest.NewRecorder()
		if test.own != nil {
			w.Header()[list] = test.own
		}
		x := &exchange{client: w}
		x.expose(http.Header{list: test.upstream})
		if got := strings.Join(w.Header()[list], " | "); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
