package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
)

// svg writes elements. All that comes from a trace goes through escape.
type svg struct{ bytes.Buffer }

// attr is an attribute: a string or a number.
type attr struct {
	name  string
	value any
}

// element writes one without children or, if text is not empty, with that.
func (s *svg) element(name, text string, attrs ...attr) {
	s.WriteString("<" + name)
	for _, a := range attrs {
		s.WriteString(" " + a.name + `="`)
		switch v := a.value.(type) {
		case float64:
			s.WriteString(px(v))
		default:
			s.escape(fmt.Sprint(v))
		}
		s.WriteByte('"')
	}
	if text == "" {
		s.WriteString("/>\n")
		return
	}
	s.WriteByte('>')
	s.escape(text)
	s.WriteString("</" + name + ">\n")
}

// px is a length: a tenth of a pixel is more than can be seen.
func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// escape also replaces what no XML document may have. A buffer takes all.
func (s *svg) escape(text string) { _ = xml.EscapeText(s, []byte(text)) }

func (s *svg) rect(class string, x, y, w, h float64, more ...attr) {
	s.element("rect", "", append([]attr{{"class", class}, {"x", x}, {"y", y}, {"width", w}, {"height", h}}, more...)...)
}

func (s *svg) line(class string, x1, y1, x2, y2 float64) {
	s.element("line", "", attr{"class", class}, attr{"x1", x1}, attr{"y1", y1}, attr{"x2", x2}, attr{"y2", y2})
}

func (s *svg) text(class string, x, y float64, text string) {
	s.element("text", text, attr{"class", class}, attr{"x", x}, attr{"y", y})
}

// colours of services, which are seen on white and on black. Red is for failures.
var colours = [...]string{"#17a2a8", "#dd9a2a", "#8f74d8", "#62a84a", "#d472b4", "#a97f57"}

// style is the picture's own, so that it looks the same in a page and by itself.
const style = `
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328 }
.page { fill: #ffffff }
.head { font-weight: 600; font-size: 14px }
.name { font-weight: 600 }
.more, .note, .tick, .label { fill: #59636e }
.note, .tick, .label { font-size: 11px }
.label { stroke: #ffffff; stroke-width: 3px; paint-order: stroke }
.mid { text-anchor: middle }
.end { text-anchor: end }
.bad { fill: #cf222e }
.badge { fill: #cf222e }
.bang { fill: #ffffff; font-size: 10px; font-weight: 700; text-anchor: middle }
.grid { stroke: #d8dee4 }
.guide { stroke: #d8dee4 }
.wait { stroke: #59636e; stroke-width: 2; stroke-dasharray: 1 4; stroke-linecap: round }
.link { stroke: #59636e; stroke-width: 1.5; stroke-dasharray: 5 3 }
.knot { fill: #59636e }
.leader { stroke: #59636e; stroke-width: .75 }
.mark { fill: #1f2328; stroke: #ffffff }
.denied { fill: #cf222e; stroke: #ffffff }
.failed { stroke: #cf222e; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .page { fill: #0d1117 }
  .more, .note, .tick, .label { fill: #9198a1 }
  .label { stroke: #0d1117 }
  .bad { fill: #ff7b72 }
  .badge { fill: #da3633 }
  .grid, .guide { stroke: #30363d }
  .wait, .link, .leader { stroke: #9198a1 }
  .knot { fill: #9198a1 }
  .mark { fill: #e6edf3; stroke: #0d1117 }
  .denied { fill: #ff7b72; stroke: #0d1117 }
  .failed { stroke: #ff7b72 }
}
`

// open starts a picture: its colours, and for each a hatch and a dotted fill of the same colour.
func (s *svg) open(width, height float64, title string) {
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%[1]g" height="%[2]g" role="img">`+"\n", width, height)
	s.element("title", title)
	s.WriteString("<style>" + style)
	for i, c := range colours {
		fmt.Fprintf(s, ".s%d { fill: %s } .lost%[1]d { fill: url(#lost%[1]d); stroke: %[2]s } .idle%[1]d { fill: %[2]s; fill-opacity: .15; stroke: %[2]s; stroke-dasharray: 3 2 }\n", i, c)
	}
	s.WriteString("</style>\n<defs>\n")
	for i, c := range colours {
		fmt.Fprintf(s, `<pattern id="lost%d" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">`+
			`<rect width="6" height="6" fill="%s" fill-opacity=".18"/><rect width="2" height="6" fill="%[2]s" fill-opacity=".7"/></pattern>`+"\n", i, c)
	}
	fmt.Fprintf(s, `<clipPath id="names"><rect x="0" y="0" width="%g" height="%g"/></clipPath>`+"\n</defs>\n", namesRight, height)
	s.rect("page", 0, 0, width, height)
}
