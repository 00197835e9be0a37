import { h, style } from './dom.js'
import { view } from './state.js'

/* global Plotly */

const CONFIG = { responsive: true, displayModeBar: false, doubleClick: 'reset' }

// A figure whose chart is drawn by `draw`; people who cannot see it are told what `draw` was last told to say.
export function figure (title) {
  const chart = h('div', { class: 'chart', role: 'img', 'aria-label': title })
  const note = h('p', { class: 'note' })
  const element = h('figure', {}, h('figcaption', {}, title), chart, note)
  return {
    element,
    draw (traces, layout = {}, says = '') {
      note.textContent = traces.length === 0 ? 'Nothing to draw yet.' : ''
      chart.hidden = traces.length === 0
      chart.setAttribute('aria-label', says ? `${title}: ${says}` : title)
      if (traces.length === 0 || !element.isConnected) return
      const line = { gridcolor: style('--grid'), zerolinecolor: style('--grid'), automargin: true }
      Plotly.react(chart, traces, {
        height: 240,
        margin: { l: 48, r: 12, t: 8, b: 36 },
        paper_bgcolor: 'rgba(0,0,0,0)',
        plot_bgcolor: 'rgba(0,0,0,0)',
        font: { color: style('--text'), size: 12, family: 'system-ui, sans-serif' },
        showlegend: traces.filter(trace => trace.showlegend !== false).length > 1,
        legend: { orientation: 'h', y: 1.02, yanchor: 'bottom', font: { size: 11 } },
        hovermode: 'x unified',
        hoverlabel: { bgcolor: style('--card'), font: { color: style('--text') } },
        uirevision: view.axis, // a zoom stays while new steps come in
        ...layout,
        xaxis: { ...line, title: { text: view.axis } },
        yaxis: { ...line, ...layout.yaxis }
      }, CONFIG)
    },
    clear () {
      Plotly.purge(chart)
    }
  }
}

// An exponential moving average that begins without a lean to its first value; gaps stay gaps.
export function smooth (values, weight) {
  if (weight === 0) return values
  let sum = 0
  let norm = 0
  return values.map(value => {
    if (value === null) return null
    sum = weight * sum + (1 - weight) * value
    norm = weight * norm + (1 - weight)
    return sum / norm
  })
}

export function curve (name, colour, x, y, weight, dash = 'solid') {
  const smoothed = { x, y: smooth(y, weight), name, mode: 'lines', line: { color: colour, width: 2, dash }, connectgaps: true }
  if (y.length === 1) Object.assign(smoothed, { mode: 'markers', marker: { color: colour } })
  if (weight === 0 || y.length < 3) return [smoothed]
  const raw = { x, y, name, mode: 'lines', line: { color: colour, width: 1 }, opacity: 0.25, showlegend: false, hoverinfo: 'skip' }
  return [raw, smoothed]
}
