package till

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestADocumentThatIsReadForAFeeIsNoRequestOfAKeyWithDollars: OpenRouter has documents
// read for $2 a thousand pages unless the model reads them or the request says who does
// (openrouter.ai/docs/guides/overview/multimodal/pdfs), and no bound holds that.
func TestADocumentThatIsReadForAFeeIsNoRequestOfAKeyWithDollars(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.addUpstream("openrouter", Upstream{})
	key := func(kind record.Kind, limit int64) minted {
		return s.mint(func(k *record.Key) { k.Upstream, k.Limit[kind] = "openrouter", limit })
	}
	dollars, tokens := key(record.Nanodollars, 100_000_000_000), key(record.Tokens, 100_000_000)
	const pdf = `"data:application/pdf;base64,AAAA"`
	chat := func(part, more string) asks {
		return asks{method: "POST", path: "/api/v1/chat/completions", body: `{"model":"openai/gpt-5-mini","max_tokens":100,"messages":[{"role":"user","content":[` + part + `]}]` + more + `}`}
	}
	file := `{"type":"file","file":{"filename":"x.pdf","file_data":` + pdf + `}}`
	for _, test := range []struct {
		name string
		asks asks
		free bool
	}{
		{"a document", chat(file, ""), false},
		{"a document without a type", chat(`{"file":{"file_data":`+pdf+`}}`, ""), false},
		{"a document of the Responses API", asks{method: "POST", path: "/api/v1/responses", body: `{"model":"openai/gpt-5-mini","max_output_tokens":100,"input":[{"role":"user","content":[{"type":"input_file","file_data":` + pdf + `}]}]}`}, false},
		{"a document in a message of Anthropic's form", asks{method: "POST", path: "/api/v1/messages", body: `{"model":"openai/gpt-5-mini","max_tokens":100,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}]}]}`}, false},
		{"a document where a picture is due", chat(`{"type":"image_url","image_url":{"url":`+pdf+`}}`, ""), false},
		{"a document of no type where a picture is due", chat(`{"type":"image_url","image_url":{"url":"data:;base64,AAAA"}}`, ""), false},
		{"a document at an address where a picture is due", chat(`{"type":"image_url","image_url":{"url":"https://example.com/long.PDF?page=1"}}`, ""), false},
		{"a document that is called a picture", asks{method: "POST", path: "/api/v1/messages", body: `{"model":"openai/gpt-5-mini","max_tokens":100,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}]}]}`}, false},
		{"a document that the model reads", chat(file, `,"plugins":[{"id":"file-parser","pdf":{"engine":"native"}}]`), true},
		{"a document that is read for nothing", chat(file, `,"plugins":[{"id":"file-parser","pdf":{"engine":"cloudflare-ai"}}]`), true},
		{"a picture at an address", chat(`{"type":"image_url","image_url":{"url":"https://example.com/pdf/x.png"}}`, ""), true},
		{"sound", chat(`{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}`, ""), true},
		{"a film", chat(`{"type":"video_url","video_url":{"url":"data:video/mp4;base64,AAAA"}}`, ""), true},
		{"a picture", chat(`{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}`, ""), true},
	} {
		status, code, message := s.serve(dollars, test.asks)
		if test.free && status != 200 || !test.free && (code != record.CodeNotMeterable || !strings.Contains(message, "file-parser")) {
			t.Errorf("%s: %d %s %s", test.name, status, code, message)
		}
		if status, _, message := s.serve(tokens, test.asks); status != 200 {
			t.Errorf("%s, of a key with tokens alone: %d %s", test.name, status, message)
		}
	}
}
