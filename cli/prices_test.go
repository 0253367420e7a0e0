package cli

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
)

func TestPricesAreShownByModelAndInFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := admintest.Get[wire.ListedPrices](t, w.Do("GET", "/prices", ""))
	if len(all.Prices) < 200 || all.AsOf == "" {
		t.Errorf("%d prices, as of %q", len(all.Prices), all.AsOf)
	}
	one := admintest.Get[wire.ListedPrices](t, w.Do("GET", "/prices?model=openai/gpt-5-2025-08-07", ""))
	if len(one.Prices) != 1 || one.Prices[0].Model != "gpt-5" || one.Prices[0].Input != "1.25" || one.Prices[0].Output != "10.00" {
		t.Errorf("a dated snapshot: %+v", one.Prices)
	}
	at := w.Serve()
	r := till(t, "prices", "gpt-5-mini", "--address", at)
	if r.code != 0 || !strings.Contains(r.out, "openai") || !strings.Contains(r.out, "0.25") || !strings.Contains(r.out, "source") || !strings.Contains(r.out, "confidence           high") {
		t.Errorf("exit %d: %s %s", r.code, r.out, r.err)
	}
	fits(t, r.out)
	if r := till(t, "prices", "--address", at); r.code != 0 || strings.Count(r.out, "\n") < 200 {
		t.Errorf("exit %d: %d lines", r.code, strings.Count(r.out, "\n"))
	} else {
		fits(t, r.out)
	}
	if r := till(t, "prices", "gpt-5-", "--address", at); r.code != 1 || !strings.Contains(r.err, "price PRESET/gpt-5- INPUT OUTPUT") {
		t.Errorf("a beginning: exit %d: %s", r.code, r.err)
	}
}
