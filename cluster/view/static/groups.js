import { get } from './api.js'
import { form, h, later, loader, number, parts, replace, select, signed, table } from './dom.js'
import { address, go } from './router.js'
import { runChoice, runs, theRun } from './state.js'

const KINDS = [
  ['all', 'all groups'], ['trained', 'trained'], ['all_right', 'all right'], ['all_wrong', 'all wrong'], ['mixed', 'mixed'],
  ['truncated', 'truncated'], ['format_broken', 'format broken'], ['dropped', 'dropped']
]
const ORDERS = [
  ['step', 'newest'], ['advantage', 'largest advantage'], ['mismatch', 'largest mismatch'], ['tokens', 'longest'],
  ['reward', 'highest reward'], ['staleness', 'stalest']
]
const ENDS = [['true', 'the top'], ['false', 'the bottom']]
const DEFAULTS = { kind: 'all', search: '', task: '', drop: '', order: 'step', descending: 'true', offset: '0' }
const COLUMNS = ['question', 'step', 'task', 'right', 'reward', 'advantage', 'mismatch', 'tokens', 'stale', 'fate']
const COUNT = 50

// The last list that was shown, for the next and the previous group of it.
export let listed = { parameters: {}, rows: [] }

export function render (box, parameters) {
  const run = theRun(parameters)
  if (run === undefined) {
    replace(box, h('h1', {}, 'Groups'), h('p', {}, 'There is no run.'))
    return {}
  }
  let asked = { ...DEFAULTS, ...parameters, run: run.name }
  const change = changes => go('groups', { ...asked, offset: '0', ...changes }, !('search' in changes))
  const typed = later(text => change({ search: text }))
  const search = h('input', {
    type: 'search', value: asked.search, placeholder: 'question, answer or id', id: 'search', oninput: event => typed(event.target.value)
  })
  const controls = h('span', { class: 'controls' })
  const found = h('p', { class: 'note', role: 'status' })
  const list = h('div')
  const pages = h('div')
  replace(box, h('h1', {}, 'Groups'),
    form(runChoice(run, value => go('groups', { run: value })), controls, h('label', {}, 'Search', search)),
    found, list, pages)

  const load = loader(box, () => get('groups', { ...asked, count: String(COUNT) }), told => {
    listed = { parameters: asked, rows: told.rows }
    replace(controls,
      select('Show', KINDS, asked.kind, value => change({ kind: value })),
      told.choices.task.length > 0 && select('Task', choices('every task', told.choices.task), asked.task, value => change({ task: value })),
      told.choices.drop.length > 0 && select('Reason', choices('every reason', told.choices.drop), asked.drop, value => change({ drop: value })),
      select('Order', ORDERS, asked.order, value => change({ order: value })),
      select('from', ENDS, asked.descending, value => change({ descending: value })))
    if (document.activeElement !== search) search.value = asked.search
    const { indexed = 0, shards = 0, broken = {} } = runs.find(one => one.name === asked.run) ?? {}
    found.textContent = `${number(told.total)} of ${number(told.all)} groups` +
      (indexed < shards ? `; reading the log: ${number(indexed)} of ${number(shards)} steps` : '') +
      Object.entries(broken).slice(0, 1).map(([name, why]) => `; ${name} cannot be read: ${why}`).join('')
    replace(list, told.rows.length === 0
      ? h('p', {}, 'No group is as wanted.')
      : table('Groups', COLUMNS, told.rows.map(row => cells(row, asked.run)), { hidden: true, class: 'cards' }))
    replace(pages, parts('groups', asked, told.total, COUNT))
  })

  function move (by) {
    const links = [...list.querySelectorAll('tbody a')]
    const place = links.indexOf(document.activeElement)
    links[place < 0 ? 0 : Math.min(Math.max(place + by, 0), links.length - 1)]?.focus()
  }

  return {
    ready: load(),
    update: load,
    watches: ['groups'],
    leave: typed.cancel,
    // The page stays while its parameters change, so that what is being typed is not lost.
    keeps (next) {
      if ((next.run ?? run.name) !== run.name) return false
      asked = { ...DEFAULTS, ...next, run: run.name }
      return true
    },
    keys: { '/': () => search.focus(), j: () => move(1), k: () => move(-1) }
  }
}

function choices (all, some) {
  return [['', all], ...some.map(one => [one.name, `${one.name} (${number(one.groups)})`])]
}

function cells (row, run) {
  return [
    h('a', { href: address('group', { run, step: row.step, row: row.row, id: row.group_id }) }, row.question || row.example_id),
    number(row.step),
    row.task || '–',
    row.completions === null ? '–' : marks(row),
    number(row.reward, 2),
    row.advantage === null ? '–' : signed(row.advantage),
    number(row.mismatch, 4),
    number(row.tokens, 1),
    number(row.staleness),
    row.drop === null ? 'trained' : h('span', { class: 'drop' }, row.drop)
  ]
}

// Right ones first, as a bar that is read as "5 of 8".
function marks (row) {
  return h('span', { class: 'marks' },
    h('span', { class: 'bar', 'aria-hidden': 'true' },
      h('span', { class: 'right', style: { width: `${100 * row.right / row.completions}%` } })),
    ` ${row.right} of ${row.completions}`)
}
