-- Certified radii of smoothed networks, and the other side of them.

-- Share of the test images that the smoothed network is certified to call their class everywhere within the l2 radius,
-- in per cent with Wilson's 95 % interval, for each network, seed and radius that the study asks for.
--   clean, abstains     what it says of the images themselves: their class; nothing
create view certified_accuracy as
with asked as (
    select study, unnest(radii) as certified_radius from studies
), counted as (
    select c.study, c.name, c.method, c.seed, c.noise_sd, c.selection_draws, c.certification_draws, c.alpha,
           a.certified_radius, count(*) as images,
           count(*) filter (c.prediction = c.label) as right_images,
           count(*) filter (c.prediction = -1) as abstaining,
           count(*) filter (c.prediction = c.label and c.radius >= a.certified_radius) as hits
    from certified c join asked a on a.study = c.study
    group by c.study, c.name, c.method, c.seed, c.noise_sd, c.selection_draws, c.certification_draws, c.alpha,
             a.certified_radius
)
select c.study, s.dataset, c.name, c.method, n.role, n.title, c.seed, c.noise_sd, c.selection_draws,
       c.certification_draws, c.alpha, c.images, 100 * c.right_images / c.images as clean,
       100 * c.abstaining / c.images as abstains, c.certified_radius, 100 * c.hits / c.images as accuracy,
       wilson_low(c.hits, c.images) as low, wilson_high(c.hits, c.images) as high, n.position
from counted c
join studies s on s.study = c.study
join networks n on n.study = c.study and n.name = c.name and n.seed is not distinct from c.seed
order by c.study, n.position, c.certified_radius;

-- Certified accuracy, the mean over the seeds; of one seed Wilson's interval over the images.
create view certified_over_seeds as
select study, any_value(dataset) as dataset, name, any_value(method) as method, any_value(role) as role,
       any_value(title) as title, noise_sd, any_value(selection_draws) as selection_draws,
       any_value(certification_draws) as certification_draws, any_value(alpha) as alpha,
       count(*) as seeds, of_seeds, max(images) as images, avg(clean) as clean, avg(abstains) as abstains,
       certified_radius, avg(accuracy) as accuracy,
       seeds_low(accuracy, of_seeds, low) as low, seeds_high(accuracy, of_seeds, high) as high,
       min(position) as position
from certified_accuracy join (select study, len(seeds) as of_seeds from studies) using (study)
group by study, name, noise_sd, certified_radius, of_seeds
order by study, position, certified_radius;

-- The sandwich: of the images whose smoothed network was attacked, how many have a certified radius above the smallest
-- change found that takes it to another class. Each does with probability alpha at most.
--   fooled              images for which such a change was found
--   allowed             violations that chance exceeds with probability .001 at most: a quantile of
--                       binomial(attacked, alpha)
--   median_certified, median_change, median_ratio    of the fooled images: radius, change, and one over the other
--   verdict, sentence   'fail' where there are more violations: the harness is wrong, not the network
create view sandwich as
with counted as (
    select study, name, method, seed, noise_sd, any_value(alpha) as alpha,
           count(*) filter (attacked_draws is not null) as attacked,
           count(attacked_l2) as fooled,
           count(*) filter (radius > attacked_l2) as violations,
           median(radius) filter (attacked_l2 is not null) as median_certified,
           median(attacked_l2) as median_change,
           median(radius / attacked_l2) as median_ratio
    from certified group by study, name, method, seed, noise_sd
), judged as (
    select *, binomial_quantile(attacked, alpha, 0.999) as allowed from counted where attacked > 0
)
select j.study, s.dataset, j.name, j.method, n.role, n.title, j.seed, j.noise_sd, j.alpha, j.attacked, j.fooled,
       j.violations, j.allowed, j.median_certified, j.median_change, j.median_ratio,
       if(j.violations > j.allowed, 'fail', 'pass') as verdict,
       format('{} of {} certified radii are above the smallest change found that fools the smoothed network, '
              || 'chance allows {}{}', j.violations, j.attacked, j.allowed,
              if(j.violations > j.allowed, ': an error of the harness, no certificate is to be believed', ''))
           as sentence,
       n.position
from judged j
join studies s on s.study = j.study
join networks n on n.study = j.study and n.name = j.name and n.seed is not distinct from j.seed
order by j.study, n.position;
