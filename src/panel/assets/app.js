// What the panel adds where scripts run: times that go on, one request for a double click, and a word when the
// page is not live. Everything works without it.
(() => {
  'use strict';
  const all = (what) => Array.from(document.querySelectorAll(what));

  // As `words::about` has it.
  const about = (seconds) => {
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86400)} days`;
  };

  // The server's clock counts, as far as this page's first time tells.
  const tick = () => {
    for (const time of all('time[data-ago]')) {
      const passed = Math.max(0, Math.round((Date.now() - Date.parse(time.dateTime)) / 1000));
      const text = passed < 1 ? 'just now' : `${about(passed)} ago`;
      if (time.textContent !== text) time.textContent = text;
    }
  };
  setInterval(tick, 15000);

  // A double click is one request; the server would answer the second one with the first one's result.
  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (form.method !== 'post') return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = 'yes';
    for (const button of form.querySelectorAll('button')) button.setAttribute('aria-busy', 'true');
  });
  // A page that comes back from the browser's memory may be sent again.
  window.addEventListener('pageshow', (event) => {
    if (event.persisted) window.location.reload();
  });

  // The names of htmx's events have the character that the page's configuration gives, in place of a colon.
  const say = (text) => {
    const place = document.getElementById('connection');
    if (place && place.textContent !== text) place.textContent = text;
  };
  document.addEventListener('htmx-sse-after-connection', (event) => {
    const status = event.detail.connection && event.detail.connection.status;
    say('');
    document.documentElement.dataset.live = status === 200 ? 'yes' : 'no';
  });
  document.addEventListener('htmx-sse-error', (event) => {
    document.documentElement.dataset.live = 'no';
    if (event.detail.status === 401) {
      window.location.reload();
      return;
    }
    say('Not live now; the page is from a moment ago. Trying again.');
  });

  // The buttons fit the state that the page was made for. In another state they are other ones.
  const state = () => {
    const live = document.querySelector('#live .state');
    return live ? live.textContent.trim() : '';
  };
  const first = state();
  const isTyping = () => {
    const active = document.activeElement;
    return active && /^(INPUT|SELECT|TEXTAREA)$/.test(active.tagName);
  };
  document.addEventListener('htmx-sse-after-message', () => {
    tick();
    if (first && state() !== first && !isTyping()) window.location.reload();
  });

  // `/` finds a store.
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || isTyping() || event.ctrlKey || event.metaKey || event.altKey) return;
    const search = document.querySelector('input[type="search"]');
    if (search) {
      event.preventDefault();
      search.focus();
    }
  });
})();
