package debugpage

import (
	"html/template"
	"strings"

	"github.com/rego-go/rego/internal/webpage"
)

// What there is most of on a page is written here, and not by a template, which takes five
// times as long. It is numbers and words of this package: of these, text escapes what says that a
// number is below another.

// HTML returns the chart as a figure.
func (c *chart) HTML() template.HTML {
	var b strings.Builder
	write(&b, `<figure class="chart"><figcaption>`, c.Title, `<span class="legend">`)
	for _, l := range c.Lines {
		write(&b, `<span class="key `, l.Class, `">`, l.Name, ` <b>`, text(l.Now), `</b></span>`)
	}
	write(&b, `</span></figcaption>`)
	c.svg(&b, c.Title, `<path class="grid" d="M0 4H600M0 52H600"/>`)
	write(&b, `<p class="scale"><span>`, c.From, ` ago</span><span>top of the scale: `, text(c.Max), `</span><span>now</span></p></figure>`)
	return template.HTML(b.String())
}

// svg writes the drawing alone.
func (c *chart) svg(b *strings.Builder, title, behind string) {
	write(b, `<svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label="`, title, `">`, behind)
	for _, l := range c.Lines {
		if l.Area != "" {
			write(b, `<path class="area `, l.Class, `" d="`, l.Area, `"/>`)
		}
		write(b, `<path class="line `, l.Class, `" d="`, l.Path, `"/>`)
	}
	write(b, `</svg>`)
}

// Cells returns the row of a method but for its name: what was of late, and since it is counted.
func (m *methodRow) Cells() template.HTML {
	var b strings.Builder
	cell := func(name, value string, total int64, class string) {
		write(&b, `<td data-name="`, name, `"`)
		if class != "" {
			write(&b, ` class="`, class, `"`)
		}
		if !m.Kept {
			value = unknown
		}
		write(&b, `>`, text(value), `<small>`, webpage.Number(total), `</small></td>`)
	}
	rate := func(n int64) string { return webpage.Decimals(webpage.PerSecond(n, m.Covers)) }
	r, t := &m.Recent, &m.Total
	amplification := unknown
	if r.Calls > 0 {
		amplification = webpage.TwoDecimals(r.Amplification())
	}
	cell("Calls/s", rate(r.Calls), t.Calls, "")
	cell("Attempts per call", amplification, t.Attempts, when(r.Amplification() >= 1+muchExtra, "warn"))
	cell("Retries/s", rate(r.Retries), t.Retries, "")
	cell("Hedges/s", rate(r.Hedges), t.Hedges, "")
	cell("Denied/s", rate(r.Denied), t.Denied, when(r.Denied > 0, "warn"))
	cell("Failed", webpage.Percent(r.FailedShare()), t.Failed, when(r.FailedShare() >= muchFails, "bad"))
	write(&b, `<td class="lately whole">`)
	if m.Spark != nil {
		m.Spark.svg(&b, "calls, and extra attempts", "")
	}
	for _, f := range m.FailedAs {
		write(&b, `<span class="reason">`, f.Reason, ` `, webpage.Number(f.Count), `</span>`)
	}
	for _, d := range m.DeniedAs {
		write(&b, `<span class="reason">denied: `, d.Reason, ` `, webpage.Number(d.Count), `</span>`)
	}
	write(&b, `</td>`)
	return template.HTML(b.String())
}

// unknown is what a page has in the place of a number.
const unknown = "–"

func text(s string) string { return strings.ReplaceAll(s, "<", "&lt;") }

func when(is bool, class string) string {
	if is {
		return class
	}
	return ""
}

func write(b *strings.Builder, parts ...string) {
	for _, p := range parts {
		b.WriteString(p)
	}
}
