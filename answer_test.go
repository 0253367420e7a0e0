package till

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// trailing is a body that writes a trailer at its end, as net/http's bodies do.
type trailing struct {
	io.Reader
	res     *http.Response
	trailer http.Header
}

func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.res.Trailer = b.trailer
	}
	return n, err
}

func (*trailing) Close() error { return nil }

func TestATrailerComesAtTheEndAndClean(t *testing.T) {
	t.Parallel()
	x := &exchange{target: &target{preset: &upstream.Preset{}}, credential: newCredential(token.NewSecret("sk-real-0123456789"))}
	for _, own := range []bool{false, true} {
		came := &http.Response{Trailer: http.Header{"X-Sum": nil, "X-Echo": nil}}
		res := came
		if own {
			res = &http.Response{Trailer: http.Header{"X-Sum": nil, "X-Echo": nil}}
		}
		body := &trailing{strings.NewReader("text"), came, http.Header{"X-Sum": {"1"}, "X-Echo": {"sk-real-0123456789"}, "X-Late": {"2"}, "Till-Key": {"3"}}}
		b := &answerBody{ReadCloser: body, x: x, res: res, original: came, cancel: func() {}}
		p := make([]byte, 8)
		if _, err := b.Read(p); err != nil || len(res.Trailer["X-Sum"]) > 0 {
			t.Fatalf("before the end: %v, %v", err, res.Trailer)
		}
		if _, err := b.Read(p); err != io.EOF {
			t.Fatal(err)
		}
		if !slices.Equal(res.Trailer["X-Sum"], []string{"1"}) || !slices.Equal(res.Trailer["X-Late"], []string{"2"}) || len(res.Trailer) != 2 {
			t.Errorf("with a trailer of its own %t: %v", own, res.Trailer)
		}
	}
}

func TestWhatSpeaksForTheSiteIsTakenOut(t *testing.T) {
	t.Parallel()
	for _, cors := range []corsOrigins{nil, {"*"}} {
		h := http.Header{"Content-Type": {"text/plain"}, "Content-Security-Policy": {"sandbox"}}
		for _, line := range []string{
			// As Cloudflare's servers say it: developers.cloudflare.com/network-error-logging.
			`Report-To: {"endpoints":[{"url":"https:\/\/a.nel.cloudflare.com\/report\/v4?s=x"}],"group":"cf-nel","max_age":604800}`,
			`NEL: {"success_fraction":0,"report_to":"cf-nel","max_age":604800}`,
			`Reporting-Endpoints: default="https://up.example.com/reports"`,
			`Expect-CT: max-age=86400, report-uri="https://up.example.com/ct"`,
			`Alt-Svc: h3=":443"; ma=86400`,
			`Strict-Transport-Security: max-age=31536000; includeSubDomains; preload`,
			`Clear-Site-Data: "*"`,
			`Public-Key-Pins: pin-sha256="x"; max-age=1`,
			`Public-Key-Pins-Report-Only: pin-sha256="x"; report-uri="https://up.example.com/"`,
		} {
			name, value, _ := strings.Cut(line, ": ")
			h.Add(name, value)
		}
		(&Transport{target: &target{preset: &upstream.Preset{}, cors: cors}}).cleanHeader(h)
		if len(h) != 2 || h.Get("Content-Security-Policy") == "" {
			t.Errorf("left are %v", h)
		}
	}
}
